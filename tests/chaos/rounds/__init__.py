"""Random faults, round after round, on a host under load: `python -m tests.chaos.rounds`.

`world` is the host and its users, `faults` is what happens to them, `observer` is a process of its
own that checks the invariants throughout, `play` is one round, `report` makes the fault matrix of
docs/reliability.md. What a round does follows from its seed alone; the machine's own timing
decides how far everybody is when it happens.
"""
