"""Write a trained network as a file for other programs."""

from __future__ import annotations

import json

from jaxnets.commands import populations
from jaxnets.commands.configs.use import Export
from jaxnets.commands.session import Session
from jaxnets.errors import UserError
from jaxnets.files import check_writable, write_files
from jaxnets.run import export
from jaxnets.run.load import load_run


def run(config: Export, session: Session) -> None:
    """The command."""
    if not config.out.name:
        raise UserError(
            f"--out {config.out} names no file; give a path such as {config.out / 'net'}"
        )
    beside = config.out.with_name(config.out.name + ".json")
    for path in (config.out, beside):
        check_writable(path, "--out")
    member = populations.name_of(config.member)
    trained = load_run(config.run, member=member)
    content = export.FORMATS[config.format](trained)
    about = {"format": config.format, **export.describe(trained)}
    if config.format != "safetensors":
        about |= export.interface(trained)
    try:
        write_files({config.out: content, beside: (json.dumps(about, indent=2) + "\n").encode()})
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename}: {error.strerror}; choose another --out"
        ) from error
    print(f"{about['kind']}, {len(content):,} bytes: {config.out}")
    print(f"what it is: {beside}")
