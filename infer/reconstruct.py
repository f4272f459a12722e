"""Command line: pass audio through the VAE and back, to hear and to measure what it keeps.

    python -m infer.reconstruct IN OUT [--model checkpoints/demo] [--metrics]

IN and OUT are two files, or two folders: every audio file under IN, at any depth, becomes a file of the same name
under OUT (with `.wav` appended where its format cannot be written). Files of any length are read, coded and written in
pieces at constant memory.
"""

import dataclasses
import logging
import sys
from pathlib import Path
from statistics import median

from tqdm import tqdm

from data.audio import AUDIO_SUFFIXES, SAMPLE_RATE, AudioFile, AudioReadError
from data.audio_writer import WRITER_SUFFIXES
from data.cli import run
from data.encoding import reconstruct
from infer.metrics.reconstruction import ReconstructionMetrics, ReconstructionReport
from infer.outputs import check_output
from infer.playback import FileSink
from models.checkpoint import SHIPPED_MODEL
from models.device import resolve_device
from models.errors import UserError
from models.vae import VAE

logger = logging.getLogger(__name__)


def main(
    source: Path,
    destination: Path,
    model: Path = SHIPPED_MODEL,
    metrics: bool = False,
    overwrite: bool = False,
    device: str = "auto",
) -> None:
    """Pass audio through the VAE and back.

    Args:
        source: an audio file, or a folder of them.
        destination: a wav, flac or ogg file to write, or a folder.
        model: folder of a checkpoint with a VAE.
        metrics: print how far each reconstruction is from its original.
        overwrite: whether existing files may be replaced.
        device: auto, cuda, mps or cpu.

    Raises:
        FileNotFoundError: no such source or model, or no folder to write into.
        UserError: no audio in the folder, or files that could not be read (the others are done all the same).
    """
    pairs = find_pairs(source, destination)
    for _, target in pairs:
        check_output(target, overwrite=overwrite)
    vae = VAE.load(model).to(resolve_device(device))
    check_vae(vae)
    reports: dict[str, ReconstructionReport] = {}
    failures: list[str] = []
    for path, target in pairs:
        try:
            report = reconstruct_file(vae, path, target, metrics, overwrite)
        except AudioReadError as error:
            if not source.is_dir():
                raise
            logger.error("left out: %s", error)
            failures.append(path.name)
            continue
        if report is not None:
            reports[str(path.relative_to(source)) if source.is_dir() else path.name] = report
    if reports:
        sys.stdout.write(format_table(reports))
    if failures:
        raise UserError(f"{len(failures)} of {len(pairs)} files could not be read: {', '.join(failures[:5])}")


def find_pairs(source: Path, destination: Path) -> list[tuple[Path, Path]]:
    """Return which file becomes which; makes the output folders of a folder."""
    if source.is_dir():
        return _find_pairs_in_folder(source, destination)
    if not source.exists():
        raise FileNotFoundError(f"no such file or folder: {source}")
    target = destination / _writable_name(source) if destination.is_dir() else destination
    if target.resolve() == source.resolve():
        raise UserError(f"{source} would be written over itself, choose another output")
    return [(source, target)]


def _find_pairs_in_folder(source: Path, destination: Path) -> list[tuple[Path, Path]]:
    if destination.resolve() == source.resolve() or destination.is_file():
        raise UserError(f"the output of a folder must be another folder, got {destination}")
    if not destination.parent.is_dir():
        raise FileNotFoundError(f"cannot write {destination}: the folder {destination.parent} does not exist")
    inside = destination.resolve()
    paths = [
        path
        for path in sorted(source.rglob("*"))
        if path.is_file() and path.suffix.lower() in AUDIO_SUFFIXES and inside not in path.resolve().parents
    ]
    if not paths:
        raise UserError(f"no audio in {source}: expected files ending in {', '.join(AUDIO_SUFFIXES)}")
    pairs = [(path, destination / path.relative_to(source).with_name(_writable_name(path))) for path in paths]
    for _, target in pairs:
        target.parent.mkdir(parents=True, exist_ok=True)
    return pairs


def _writable_name(path: Path) -> str:
    return path.name if path.suffix.lower() in WRITER_SUFFIXES else f"{path.name}.wav"


def check_vae(vae: VAE) -> None:
    """Refuse a VAE for other audio than this command reads and writes."""
    rate, channels = vae.config.sample_rate, vae.config.audio_channels
    if rate != SAMPLE_RATE or channels not in (1, 2):
        raise UserError(f"the model must be for 1 or 2 channels at {SAMPLE_RATE} Hz, got {channels} at {rate} Hz")


def reconstruct_file(
    vae: VAE, source: Path, target: Path, measure: bool, overwrite: bool = False
) -> ReconstructionReport | None:
    """Write the reconstruction of one file, of the same length; an interruption leaves what was made."""
    metrics = ReconstructionMetrics(SAMPLE_RATE, vae.config.audio_channels) if measure else None
    with AudioFile(source) as file, FileSink(target, SAMPLE_RATE, overwrite=overwrite) as sink:
        seconds = file.num_samples / SAMPLE_RATE
        bar_format = "{l_bar}{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}, {rate_noinv_fmt}]"
        with tqdm(total=seconds, desc=source.name, unit="s", bar_format=bar_format) as bar:
            for original, reconstruction in reconstruct(vae, file):
                sink.write(reconstruction.expand(2, -1))
                if metrics is not None:
                    metrics.push(reconstruction, original)
                bar.update(reconstruction.shape[-1] / SAMPLE_RATE)
    return metrics.report() if metrics is not None else None


def format_table(reports: dict[str, ReconstructionReport]) -> str:
    """One line per file and one for their median, tab-separated after a header.

    The median, because one nearly silent file makes a distance of thousands; silent ones have none and are counted.
    """
    names = [field.name for field in dataclasses.fields(ReconstructionReport)]
    rows = {name: [getattr(report, metric) for metric in names] for name, report in reports.items()}
    if len(rows) > 1:
        known = [[value for value in column if value is not None] for column in zip(*rows.values(), strict=True)]
        num_silent = sum(report.is_silent for report in reports.values())
        title = "median" + (f" ({num_silent} of {len(reports)} silent or constant)" if num_silent else "")
        rows[title] = [median(values) if values else None for values in known]
    lines = [["file", *names]]
    lines += [[name, *("-" if v is None else f"{v:.3f}" for v in values)] for name, values in rows.items()]
    return "".join("\t".join(line) + "\n" for line in lines)


if __name__ == "__main__":
    run(main, positionals=("source", "destination"))
