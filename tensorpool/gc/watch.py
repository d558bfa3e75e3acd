"""The registry as the GC follows it: one driver's file after another."""

from __future__ import annotations

from tensorpool.gc.eligibility import RegistryView, StreamEpochs, Unreadable
from tensorpool.registry import DriverState, LeaseState, RegistryError, RegistryReader


class RegistryWatch:
    """The registry at `path`, opened again whenever a new driver has replaced it.

    Attributes:
        reader: the open registry; None while there is none that can be read.
        why: why there is none.
        generation: how many registries were opened so far.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.reader: RegistryReader | None = None
        self.why = "not opened yet"
        self.generation = 0

    def refresh(self) -> RegistryReader | None:
        """The registry that is at the path now. Costs one `stat` if it is the same."""
        if self.reader is not None and not self.reader.is_replaced:
            return self.reader
        self.close()
        try:
            self.reader = RegistryReader(self._path)
        except RegistryError as error:
            self.why = str(error)
            return None
        self.generation += 1
        return self.reader

    def view(self) -> RegistryView | Unreadable:
        """Everything that a judgement needs; streams are read before leases.

        A lease granted after its stream was read is on an epoch that is at least as new.
        """
        reader = self.refresh()
        if reader is None:
            return Unreadable(self.why)
        try:
            return _read(reader)
        except RegistryError as error:
            self.why = str(error)
            return Unreadable(self.why)

    def serves(self, stream_id: int) -> bool:
        """Whether a driver that has not shut down serves this stream; in doubt, yes."""
        reader = self.refresh()
        if reader is None:
            return True
        try:
            return not is_stopped(reader) and any(
                record.stream_id == stream_id for record in reader.streams()
            )
        except RegistryError:
            return True

    def close(self) -> None:
        """Let go of the registry."""
        if self.reader is not None:
            self.reader.close()
            self.reader = None


def is_stopped(reader: RegistryReader) -> bool:
    """Whether its driver has said that its shutdown is complete.

    Raises:
        RegistryError: it says something that no driver of this release says.
    """
    return reader.state is DriverState.STOPPED


def _read(reader: RegistryReader) -> RegistryView:
    streams: dict[int, StreamEpochs] = {}
    for record in reader.streams():
        known = streams.get(record.stream_id)
        if known is None or record.last_epoch > known.last:
            streams[record.stream_id] = StreamEpochs(record.epoch, record.last_epoch)
    leases: dict[tuple[int, int], list[int]] = {}
    for lease in reader.leases():
        # Whatever is not known to be over is in use.
        if lease.state != LeaseState.RELEASED:
            leases.setdefault((lease.stream_id, lease.epoch), []).append(lease.lease_id)
    writer = (reader.writer.pid, reader.writer.start_ticks)
    return RegistryView(
        writer,
        # A stopped or stalled driver beats no more, and still makes what it has begun.
        reader.is_writer_there(),
        reader.is_of_this_boot(),
        is_stopped(reader),
        streams,
        leases,
    )
