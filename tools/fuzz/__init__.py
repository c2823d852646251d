"""``python -m tools.fuzz``: unusable input of every kind, drawn by hypothesis.

What cannot be used must be refused with a `ValueError`, `TypeError` or `OSError` that leaves every state as it was, and
what is accepted must work. `watch` tells whether that is so, `values` has what is handed in, and each of `detectors`,
`labels`, `files` and `commands` has areas: functions that draw one input and hand it in.
"""
