"""``python -m tools.chaos``: processes killed at any moment, two at once, and full disks.

Whatever a process has reported as done must be there afterwards, once and as it was; whatever it has not must be as it
was before, or done. `processes` starts and ends them, `targets` knows what they write and how it is looked at.
"""
