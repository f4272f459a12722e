"""Tokenizers: trained on captions, stored as a `tokenizer.json` that `transformers` reads as well.

Loading goes straight to the `tokenizers` library, which takes milliseconds; `transformers` is imported to save.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from models.errors import UserError

FILE_NAME = "tokenizer.json"
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
"""Start, padding, end and unknown, with the ids 0, 1, 2 and 3 of RoBERTa."""
_WORDS = r" ?[\p{L}\p{N}]+(?:[#'.][\p{L}\p{N}]+)*#?| ?[^\s\p{L}\p{N}]+"


def train_tokenizer(captions: Iterable[str], vocab_size: int = 2000) -> Tokenizer:
    """Train a byte-level BPE tokenizer on captions, lowercased.

    Letters and digits of a word stay together, so that frequent terms such as "120", "bpm", "a4" and "f#3" become one
    token each; any other text is spelled in pieces, at worst in bytes. Every sequence is <s> ... </s>.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.normalizer = normalizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Prepend(" "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Read the tokenizer of a folder that holds a tokenizer.json.

    Raises:
        FileNotFoundError: there is none.
        UserError: the file is damaged.
    """
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(f"no tokenizer in {folder}: expected {FILE_NAME}")
    return parse_tokenizer(path.read_bytes(), path)


def parse_tokenizer(content: bytes, path: Path) -> Tokenizer:
    """Build a tokenizer from what a tokenizer.json holds.

    Args:
        path: of the file, for messages.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return Tokenizer.from_str(content.decode())
    except Exception as error:  # noqa: BLE001 (the library raises nothing narrower)
        raise UserError(f"{path} is not a valid tokenizer: {error}") from None


def load_pretrained_tokenizer(folder: str | Path) -> Tokenizer:
    """Read the tokenizer of a Hugging Face model folder, converting slow ones (SentencePiece, word lists).

    Raises:
        FileNotFoundError: the folder has no tokenizer that `transformers` can read.
    """
    if (Path(folder) / FILE_NAME).is_file():
        return load_tokenizer(folder)
    from transformers import AutoTokenizer  # seconds, wanted here alone

    try:
        return AutoTokenizer.from_pretrained(str(folder), use_fast=True).backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        raise FileNotFoundError(f"no tokenizer in {folder}: expected {FILE_NAME} ({error})") from None


def save_tokenizer(tokenizer: Tokenizer, folder: str | Path, max_tokens: int) -> None:
    """Write a tokenizer as `transformers` does, so that `AutoTokenizer` reads the folder too."""
    from transformers import PreTrainedTokenizerFast  # a second, wanted here alone

    names = ("bos_token", "pad_token", "eos_token", "unk_token")
    known = {
        name: token
        for name, token in zip(names, SPECIAL_TOKENS, strict=True)
        if tokenizer.token_to_id(token) is not None
    }
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_tokens, **known)
    wrapped.save_pretrained(str(folder))
