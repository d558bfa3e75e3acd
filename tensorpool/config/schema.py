"""The JSON Schema of the configuration file, for editors."""

from tensorpool.config.operations import HostConfig


def json_schema() -> dict[str, object]:
    """The schema; rules between keys are beyond it, `tensorpool config check` has them."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **HostConfig.model_json_schema(),
    }
