"""What can be said of a run on Ray, in Python and on the command line."""

from __future__ import annotations

from dataclasses import dataclass

from ...io.options import check_settings, setting

MODES = ("ordered", "merged")


@dataclass(frozen=True, kw_only=True)
class RaySettings:
    """How a run is spread over a cluster. None of it but ``mode`` and ``merge_every`` changes what is judged.

    Attributes:
        mode: "ordered" scores in one place, in the recorded order; "merged" scores on the workers.
        merge_every: batches after which a worker of a merged run brings what it learnt together with the others.
        workers: the most actors that read and embed; 0 takes as many as the cluster has room for.
        num_cpus: cores of a worker; as many threads decode images. May be a part of one.
        num_gpus: GPUs of a worker, or a part of one; 0 embeds on the CPU.
        encode_batch: images that a worker encodes at once.
        unit_rows: images of a folder, a Parquet file or a data set that a worker is given at once.
        partition_rows: rows of an output partition, at least, but for the last one.
        address: of a Ray cluster, such as ``auto`` or ``ray://host:10001``; None takes the one that this process is
            connected to, or RAY_ADDRESS, or starts one on this machine.
    """

    mode: str = setting(
        "ordered",
        "ordered: embed side by side, score in one place in the recorded order, as one process would; merged: score on "
        "the workers, which bring together what they learn",
        choices=MODES,
    )
    merge_every: int = setting(
        16, "batches after which a worker of a merged run merges what it learnt", metavar="N", at_least=1
    )
    workers: int = setting(
        0,
        "the most actors that read and embed (default: as many as the cluster has room for)",
        metavar="N",
        at_least=0,
    )
    num_cpus: float = setting(1.0, "cores of a worker, or a part of one; as many threads decode", metavar="N")
    num_gpus: float = setting(0.0, "GPUs of a worker, or a part of one", metavar="N")
    encode_batch: int = setting(64, "images that a worker encodes at once", metavar="N", at_least=1)
    unit_rows: int = setting(
        1024, "images that a worker is given at once; a tar shard is given whole", metavar="N", at_least=1
    )
    partition_rows: int = setting(65_536, "rows of an output partition", metavar="N", at_least=1)
    address: str | None = setting(
        None, "of a Ray cluster: auto, ray://host:10001 (default: RAY_ADDRESS, or a cluster on this machine)"
    )

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("num_cpus", "num_gpus"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number, not {value!r}")
            if not 0 <= value < float("inf") or (name == "num_cpus" and value == 0):
                raise ValueError(f"{name} must be a number above 0, not {value!r}")
