"""The command `infer.evaluate`: `python -m infer.evaluate COMMAND ...`, each with its own `--help`."""

import importlib
import sys

from data.cli import run

COMMANDS = {
    "facts": "do generated sounds have the tempo, pitch, side ... that their prompts state?",
    "protocol": "FD, KL, CLAP score ... as Stable Audio or AudioLDM published them",
    "vae": "what the autoencoder keeps: STFT and mel distance, SI-SDR, FD before and after",
    "timing": "asked against measured length",
    "text": "does CLAP find the caption of a sound, and the sound of a caption?",
    "endless": "experiments on endless sound: seams, drift, repetition, memory, other methods",
    "compare": "two folders of results, with significance",
}


def main(argv: list[str]) -> None:
    """Hand the rest of the command line to the command that it names."""
    name = argv[0] if argv else "--help"
    if name in COMMANDS:
        module = importlib.import_module(f"infer.evaluate.{name}")
        run(module.main, argv=argv[1:], positionals=getattr(module, "POSITIONALS", ()), prog=f"infer.evaluate {name}")
    elif name in ("-h", "--help"):
        lines = [f"  {command:9} {purpose}\n" for command, purpose in COMMANDS.items()]
        sys.stdout.write(f"usage: python -m infer.evaluate COMMAND [--help] ...\n\n{''.join(lines)}")
    else:
        sys.stderr.write(f"error: no command {name!r}, expected one of {', '.join(COMMANDS)}\n")
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
