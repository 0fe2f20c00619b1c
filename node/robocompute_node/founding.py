"""Making a node's data folder: settings, keys and API key, each made once and kept for ever."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from robocompute_node.config import CONFIG_NAME, NodeConfig
from robocompute_node.config_file import config_text, load_config, parse_config
from robocompute_node.keys import KeyFile, load_key, make_api_key, make_key, write_secret
from robocompute_protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Founded:
    """A node that is ready to run. ``made`` are the files that were not there before."""

    config: NodeConfig
    node_key: KeyFile
    wallet: KeyFile
    made: tuple[Path, ...]


def found_node(data_dir: Path, document: Mapping[str, Mapping[str, object]]) -> Founded:
    """Make what is missing of a node in ``data_dir``, and read what is there.

    ``document`` is what its config.toml shall say, as TOML values; it counts only when there is no
    such file yet.

    Raises:
        ConfigError: ``document`` is no configuration, or a file that is there cannot be used.
    """
    made: list[Path] = []
    text = settings_text(document, data_dir=data_dir)
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise ConfigError(
            f"{data_dir} cannot be made ({exc.strerror}): choose another with --data"
        ) from exc
    if not (data_dir / CONFIG_NAME).exists():
        write_secret(data_dir / CONFIG_NAME, text.encode())
        made.append(data_dir / CONFIG_NAME)
    config = load_config(data_dir)
    keys: list[KeyFile] = []
    for path in (config.node_key_path, config.wallet_path):
        if path.exists():
            keys.append(load_key(path))
        else:
            keys.append(make_key(path))
            made.append(path)
    if not config.api_key_path.exists():
        make_api_key(config.api_key_path)
        made.append(config.api_key_path)
    return Founded(config=config, node_key=keys[0], wallet=keys[1], made=tuple(made))


def settings_text(document: Mapping[str, Mapping[str, object]], *, data_dir: Path) -> str:
    """Return the commented config.toml that says what ``document`` says, as TOML values.

    Raises:
        ConfigError: ``document`` is no configuration.
    """
    config = parse_config(document, data_dir=data_dir, source="the new node")
    values = {
        section: {key: getattr(getattr(config, section), key) for key in table}
        for section, table in document.items()
    }
    return config_text(values)
