"""Making a node's data folder: settings, keys and API key, each made once and kept for ever."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from robocompute_node.config import CONFIG_NAME, NodeConfig
from robocompute_node.config_file import config_text, load_config, parse_config
from robocompute_node.keys import (
    KeyFile,
    load_key,
    load_wallet,
    load_wallet_address,
    make_api_key,
    make_key,
    write_secret,
)
from robocompute_node.node_mark import first_mark, write_mark
from robocompute_protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from robocompute_protocol.identifiers import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Founded:
    """A node that is ready to run. ``made`` are the files that were not there before."""

    config: NodeConfig
    node_key: KeyFile
    wallet_address: Address
    made: tuple[Path, ...]

    @property
    def wallet(self) -> KeyFile:
        """The wallet's own key.

        Raises:
            ConfigError: its secret is kept elsewhere.
        """
        return load_wallet(self.config)


def found_node(data_dir: Path, document: Mapping[str, Mapping[str, object]]) -> Founded:
    """Make what is missing of a node in ``data_dir``, and read what is there.

    ``document`` is what its config.toml shall say, as TOML values; it counts only when there is no
    such file yet. No wallet is made where the settings name one, whose secret stays elsewhere.

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
    if not config.node_key_path.exists():
        made.append(make_key(config.node_key_path).path)
        write_mark(data_dir, first_mark())  # this key has signed nothing anywhere
    if config.chain.wallet is None and not config.wallet_path.exists():
        made.append(make_key(config.wallet_path).path)
    if not config.api_key_path.exists():
        make_api_key(config.api_key_path)
        made.append(config.api_key_path)
    return Founded(
        config=config,
        node_key=load_key(config.node_key_path),
        wallet_address=load_wallet_address(config),
        made=tuple(made),
    )


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
