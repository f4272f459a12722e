"""`report.html` of a results folder: the table, figures, and players with spectrograms side by side.

One static page without scripts; sound and images lie beside it, so that the folder can be moved or served as it is.
"""

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.audio_writer import write_audio
from infer.evaluate.results import ReportClip, Results, Score
from infer.pictures import write_spectrogram
from models.files import replacing

REPORT_NAME = "report.html"

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #8886; padding: .3rem .8rem; text-align: left; white-space: nowrap; }
.wide { overflow-x: auto; }
.clip { border-top: 1px solid #8886; margin-top: 1.5rem; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { flex: 1 1 20rem; margin: 0; min-width: 16rem; }
figure img { width: 100%; height: 10rem; image-rendering: auto; background: #000; }
figure audio { width: 100%; }
.figures img { max-width: 100%; }
pre { overflow-x: auto; }
"""


def write_report(folder: Path, results: Results, clips: Iterable[ReportClip] = (), figures: Sequence[str] = ()) -> Path:
    """Write the page, the sound in `audio/` and the spectrograms in `spectrograms/`.

    Args:
        clips: one at a time; none is kept.
        figures: names of images in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [_clip_row(folder, index, clip) for index, clip in enumerate(clips)]
    parts = [
        f"<h1>{html.escape(results.command)}</h1>",
        f'<div class="wide">{_table(results)}</div>',
        "<p>Mean over clips, with its 95 % bootstrap interval.</p>",
        f"<ul>{''.join(f'<li>{html.escape(note)}</li>' for note in results.notes)}</ul>",
        '<div class="figures">' + "".join(f'<p><img src="{html.escape(name)}" alt=""></p>' for name in figures),
        "</div>",
        "".join(rows),
        f"<h2>Settings</h2><pre>{html.escape(_lines(results.settings))}</pre>",
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(results.command)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
    path = folder / REPORT_NAME
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _table(results: Results) -> str:
    subjects = list(dict.fromkeys(score.subject for score in results.scores))
    cells = {(score.measure, score.subject): score for score in results.scores}
    head = "".join(f"<th>{html.escape(subject)}</th>" for subject in subjects)
    rows = []
    for measure in dict.fromkeys(score.measure for score in results.scores):
        found = [cells.get((measure, subject)) for subject in subjects]
        rows.append(f"<tr><th>{html.escape(measure)}</th>{''.join(map(_cell, found))}</tr>")
    return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"


def _cell(score: Score | None) -> str:
    return f'<td title="{score.num} clips">{score.text}</td>' if score else "<td></td>"


def _clip_row(folder: Path, index: int, clip: ReportClip) -> str:
    figures = []
    for number, (subject, audio) in enumerate(clip.audio.items()):
        name = f"{index:03d}-{number}"
        sound, image = folder / "audio" / f"{name}.flac", folder / "spectrograms" / f"{name}.png"
        for path in (sound, image):
            path.parent.mkdir(exist_ok=True)
        write_audio(sound, audio)
        write_spectrogram(image, audio)
        figures.append(
            f'<figure><figcaption>{html.escape(subject)}</figcaption><img src="spectrograms/{name}.png" '
            f'alt="spectrogram"><audio controls preload="metadata" src="audio/{name}.flac"></audio></figure>'
        )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in clip.notes)
    return (
        f'<section class="clip"><h3>{html.escape(clip.title)}</h3>'
        f'<div class="row">{"".join(figures)}</div><ul>{notes}</ul></section>'
    )


def _lines(settings: dict, indent: str = "") -> str:
    text = ""
    for name, value in settings.items():
        nested = isinstance(value, dict)
        text += f"{indent}{name}:\n{_lines(value, indent + '  ')}" if nested else f"{indent}{name}: {value}\n"
    return text
