"""Defaults that come from another table, filled in once the tables are valid."""

from tensorpool.config.fields import StreamIdRange
from tensorpool.config.metadata import Inherits
from tensorpool.config.models import PoliciesTable, SupervisorTable
from tensorpool.config.operations import HostConfig


def resolve(config: HostConfig) -> HostConfig:
    """`config` with every inherited default in place."""
    return config.model_copy(
        update={
            "policies": _policies(config),
            "supervisor": _supervisor(config) if config.supervisor else None,
        }
    )


def _policies(config: HostConfig) -> PoliciesTable:
    if config.policies.default_profile:
        return config.policies
    first = next(iter(config.profiles), "")
    return config.policies.model_copy(update={"default_profile": first})


def _supervisor(config: HostConfig) -> SupervisorTable:
    supervisor = config.supervisor
    assert supervisor is not None
    update: dict[str, object] = {}
    for name, field in SupervisorTable.model_fields.items():
        inherits = next((m for m in field.metadata if isinstance(m, Inherits)), None)
        if inherits is not None and not getattr(supervisor, name):
            update[name] = getattr(config.driver, inherits.source.removeprefix("driver."))
    update |= _per_consumer(supervisor, "descriptor", config.driver.descriptor_stream_id_range)
    update |= _per_consumer(supervisor, "control", config.driver.control_stream_id_range)
    return supervisor.model_copy(update=update)


def _per_consumer(
    supervisor: SupervisorTable, what: str, ids: StreamIdRange | None
) -> dict[str, object]:
    base, count = f"per_consumer_{what}_base", f"per_consumer_{what}_range"
    if ids is None or getattr(supervisor, base) or getattr(supervisor, count):
        return {}
    return {base: ids.first, count: ids.last - ids.first + 1}
