"""What is asked of a person, and only of a person; and what a preview shows them."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from chisel.options import Options, UsageError, gpu

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from chisel.upload import Upload

PREVIEW_FILES: Final = 20
"""Files a preview lists: enough to see that something is wrong."""


def somebody_is_there() -> bool:
    """Whether questions would be seen and could be answered."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def ask(options: Options, given: Options, app_name: str, here: Path) -> Options:
    """Ask for what neither a flag nor a saved answer says, with a default for all of it.

    ``--interactive`` asks for saved answers too. The end of input takes the defaults.
    """
    again = options.interactive
    known = given if again else options
    if None not in (known.app_name, known.upload_dir, known.requirements, known.gpu):
        return options
    answers: dict[str, str] = {}
    try:
        if known.app_name is None:
            default = options.app_name or app_name
            answers["app_name"] = _question(
                f"📝 App name (for job tracking, default: {default}): "
            )
            answers["app_name"] = answers["app_name"] or default
        if known.upload_dir is None:
            default = options.upload_dir or "."
            answers["upload_dir"] = (
                _question("📁 Upload directory (default: current directory): ") or default
            )
        if known.requirements is None:
            found = _question("📋 Requirements file (default: requirements.txt): ")
            if found:
                answers["requirements"] = found
        if known.gpu is None:
            answers["gpu"] = _gpu_question(options.gpu or "")
    except EOFError:
        print(file=sys.stderr)
    options = replace(options, **answers)
    _offer_to_save(options, here)
    return options


def preview(task: Mapping[str, Any], upload: Upload) -> Iterator[str]:
    """Lines that say what would be sent and asked for."""
    yield f"command       {' '.join(task['command'])}"
    yield f"app name      {task['name']}"
    yield f"gpu           {task['gpu'] or 'none'}"
    yield f"requirements  {task['requirements_file'] or 'none'}"
    yield f"time limit    {task['timeout_seconds']} s"
    yield f"upload        {len(upload.files)} files, {upload.size} bytes from {upload.root}"
    for file in upload.files[:PREVIEW_FILES]:
        yield f"  {file.size:>12}  {file.path}"
    if len(upload.files) > PREVIEW_FILES:
        yield f"  and {len(upload.files) - PREVIEW_FILES} more"
    for reason, paths in upload.left_out.items():
        yield f"not sent      {reason}: {', '.join(paths)}"


def _gpu_question(default: str) -> str:
    while True:
        said = _question("🎮 GPU (none, 1-8 for A100-80GB, or like H100:2; default: none): ")
        try:
            return gpu(said or default)
        except UsageError as error:
            print(f"❌ {error}", file=sys.stderr)


def _offer_to_save(options: Options, here: Path) -> None:
    path = here / "chisel.toml"
    if path.exists():
        return
    try:
        if _question("💾 Keep these answers in chisel.toml? [y/N]: ").lower() not in ("y", "yes"):
            return
    except EOFError:
        return
    import json

    lines = [
        f"{name} = {json.dumps(value, ensure_ascii=False)}"
        for name, value in (
            ("app_name", options.app_name),
            ("upload_dir", options.upload_dir),
            ("requirements", options.requirements),
            ("gpu", options.gpu),
        )
        if value is not None
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _question(text: str) -> str:
    sys.stderr.write(text)
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.strip()
