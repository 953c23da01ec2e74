"""The commands about the local runtime: `penstock up`, `get`, `chat`, `logs`, `scale`, `down`.

Every command imports what it needs itself, so that help is instant.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from penstock_operator.local.chat import Chat
    from penstock_operator.local.home import Home


@contextmanager
def mistakes_reported() -> Iterator[None]:
    """Turn errors that a user can put right into a message."""
    from penstock_operator.local.errors import UserError

    try:
        yield
    except UserError as error:
        fail(str(error), code=2)


def fail(message: str, *, code: int) -> NoReturn:
    """Say what is wrong and end."""
    click.echo(f"error: {message}", err=True)
    sys.exit(code)


def seconds_of(duration: str, option: str) -> float:
    """Return an option's duration in seconds; BadParameter when it is none."""
    from penstock_contract.api.base import seconds

    try:
        return seconds(duration)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None


def home() -> "Home":
    """Return the state folder that the environment names."""
    import os

    from penstock_operator.local.home import Home

    return Home.of(os.environ)


def running_status() -> dict[str, Any]:
    """Return the status of the running runtime.

    Raises:
        UserError: none is running.
    """
    from penstock_operator.local.errors import UserError
    from penstock_operator.local.follow import read_status
    from penstock_operator.local.ownership import owner

    status = read_status(home()) if owner(home()) else None
    if status is None:
        raise UserError("nothing is running; start it with: penstock up FILE")
    return status


@click.command(short_help="Run FILE, or apply it to what runs.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--detach", "-d", is_flag=True, help="Return once it is ready, and leave it running.")
@click.option("--port", type=click.IntRange(1, 65_535), show_default="8000",
              help="Port of the OpenAI endpoint on 127.0.0.1.")  # fmt: skip
@click.option("--timeout", show_default="120s; 600s with vLLM", help="How long it may take.")
@click.option("--vllm-venv", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Virtual environment that holds vLLM, for engine.type VLLM.")  # fmt: skip
def up(
    file: Path, detach: bool, port: int | None, timeout: str | None, vllm_venv: Path | None
) -> None:
    """Run the InferenceDeployments of FILE; when something runs already, apply FILE to it."""
    from penstock_operator.local.follow import NotReady
    from penstock_operator.local.up import up as serve

    patience = seconds_of(timeout, "--timeout") if timeout else None
    with mistakes_reported():
        try:
            serve(
                home(), file, port=port, timeout=patience, detach=detach, show=click.echo,
                vllm_venv=vllm_venv,
            )  # fmt: skip
        except NotReady as error:
            fail(str(error), code=1)


@click.command()
@click.option("--output", "-o", type=click.Choice(["json", "wide"]), help="Another form.")
def get(output: str | None) -> None:
    """Show what is served, its pools and its workers."""
    import json
    from datetime import UTC, datetime

    from penstock_operator.local.table import render

    with mistakes_reported():
        status = running_status()
    if output == "json":
        click.echo(json.dumps(status, indent=2))
    else:
        click.echo(render(status, datetime.now(UTC), wide=output == "wide"))


@click.command()
@click.argument("message", required=False)
@click.option("--model", help="Served name; needed when several models are served.")
@click.option("--max-tokens", default=256, show_default=True, type=click.IntRange(min=1))
@click.option("--temperature", default=0.0, show_default=True, type=click.FloatRange(min=0))
def chat(message: str | None, model: str | None, max_tokens: int, temperature: float) -> None:
    """Ask a served model; without MESSAGE, converse line by line.

    Where tenants are known, the API key is taken from PENSTOCK_API_KEY.
    """
    import os

    from penstock_operator.local.chat import Chat, choose_model

    with mistakes_reported():
        status = running_status()
        names = [item["servedName"] for item in status["items"]]
        conversation = Chat(
            status["endpoint"],
            {
                "model": choose_model(names, model),
                "max_tokens": max_tokens,
                "temperature": temperature,
            },
            os.environ.get("PENSTOCK_API_KEY"),
        )
    for question in [message] if message else _questions():
        _answer(conversation, question)


def _answer(conversation: "Chat", question: str) -> None:
    """Show an answer as it comes."""
    from penstock_operator.local.chat import ChatError

    started = False
    try:
        for piece in conversation.ask(question):
            click.echo(piece, nl=False)
            started = True
    except ChatError as error:
        if started:
            click.echo()
        fail(str(error), code=1)
    click.echo()


def _questions() -> Iterator[str]:
    """Yield lines from the keyboard (with a prompt) or from a pipe."""
    while True:
        try:
            question = input("> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            return
        if question.strip():
            yield question


@click.command(short_help="Show what processes print.")
@click.argument("name", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on as the log grows.")
def logs(name: str | None, follow: bool) -> None:
    """Show what processes print: NAME is a worker, a pool, `gateway` or `runtime`.

    A log begins anew after 16 MiB. What it had before lies beside it, in `logs/NAME.log.1` of the
    state folder ($PENSTOCK_HOME, else ~/.local/state/penstock), until that happens again.
    """
    from penstock_operator.local.logs import choose, lines
    from penstock_operator.local.ownership import owner

    with mistakes_reported():
        chosen = choose(home(), name)
    try:
        for line in lines(chosen, follow=lambda: follow and owner(home()) is not None):
            click.echo(line)
    except KeyboardInterrupt:
        return


@click.command(context_settings={"ignore_unknown_options": True})  # -1 is no option
@click.argument("target", metavar="NAME/POOL")
@click.argument("replicas", type=int)
def scale(target: str, replicas: int) -> None:
    """Set the number of workers of a pool."""
    from penstock_operator.local.scale import scale as set_replicas
    from penstock_operator.local.store import Store

    with mistakes_reported():
        running_status()
        before = set_replicas(Store(home().objects), target, replicas)
    click.echo(f"{target} scaled from {before} to {replicas}")


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
def down(file: Path | None) -> None:
    """Drain everything, end it, and wait until it is gone.

    With FILE, only what it declares is taken away, and the rest goes on.
    """
    from penstock_operator.local.down import stop, take_away

    with mistakes_reported():
        if file is None:
            stop(home(), show=click.echo)
        else:
            take_away(home(), file, show=click.echo)


COMMANDS = (up, get, chat, logs, scale, down)
