"""The `penstock` command. Every command imports what it needs itself, so that help is instant."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from penstock_operator.local.home import Home


def main() -> None:
    """Run the command line; mistakes of the user end with code 2 and never with a traceback."""
    commands(prog_name="penstock")


@contextmanager
def told() -> Iterator[None]:
    """Turn errors that a user can put right into a message."""
    from penstock_operator.local.errors import UserError

    try:
        yield
    except UserError as error:
        fail(str(error), code=2)


def fail(message: str, *, code: int) -> None:
    """Say what is wrong and end."""
    click.echo(f"error: {message}", err=True)
    sys.exit(code)


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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Serve large language models: the plan of the operator, run on this machine."""


@commands.command(short_help="Run FILE, or apply it to what runs.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--detach", "-d", is_flag=True, help="Return once it is ready, and leave it running.")
@click.option("--port", type=click.IntRange(1, 65_535), show_default="8000",
              help="Port of the OpenAI endpoint on 127.0.0.1.")  # fmt: skip
@click.option("--timeout", default="120s", show_default=True, help="How long it may take.")
@click.option("--vllm-venv", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Virtual environment that holds vLLM, for engine.type VLLM.")  # fmt: skip
def up(file: Path, detach: bool, port: int | None, timeout: str, vllm_venv: Path | None) -> None:
    """Run the InferenceDeployments of FILE; when something runs already, apply FILE to it."""
    from penstock_contract.api.base import seconds
    from penstock_operator.local.follow import NotReady
    from penstock_operator.local.up import up as serve

    try:
        patience = seconds(timeout)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--timeout") from None
    with told():
        try:
            serve(
                home(), file, port=port, timeout=patience, detach=detach, show=click.echo,
                vllm_venv=vllm_venv,
            )  # fmt: skip
        except NotReady as error:
            fail(str(error), code=1)


@commands.command()
@click.option("--output", "-o", type=click.Choice(["json", "wide"]), help="Another form.")
def get(output: str | None) -> None:
    """Show what is served, its pools and its workers."""
    import json
    from datetime import UTC, datetime

    from penstock_operator.local.table import render

    with told():
        status = running_status()
    if output == "json":
        click.echo(json.dumps(status, indent=2))
    else:
        click.echo(render(status, datetime.now(UTC), wide=output == "wide"))


@commands.command()
@click.argument("message", required=False)
@click.option("--model", help="Served name; needed when several models are served.")
@click.option("--max-tokens", default=256, show_default=True, type=click.IntRange(min=1))
@click.option("--temperature", default=0.0, show_default=True, type=click.FloatRange(min=0))
def chat(message: str | None, model: str | None, max_tokens: int, temperature: float) -> None:
    """Ask a served model; without MESSAGE, converse line by line.

    Where tenants are known, the API key is taken from PENSTOCK_API_KEY.
    """
    import os

    from penstock_operator.local.chat import Chat, ChatError, choose_model

    with told():
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


@commands.command(short_help="Show what processes print.")
@click.argument("name", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on as the log grows.")
def logs(name: str | None, follow: bool) -> None:
    """Show what processes print: NAME is a worker, a pool, `gateway` or `runtime`.

    A log begins anew after 16 MiB. What it had before lies beside it, in `logs/NAME.log.1` of the
    state folder ($PENSTOCK_HOME, else ~/.local/state/penstock), until that happens again.
    """
    from penstock_operator.local.logs import choose, lines
    from penstock_operator.local.ownership import owner

    with told():
        chosen = choose(home(), name)
    try:
        for line in lines(chosen, follow=lambda: follow and owner(home()) is not None):
            click.echo(line)
    except KeyboardInterrupt:
        return


@commands.command(context_settings={"ignore_unknown_options": True})  # -1 is no option
@click.argument("target", metavar="NAME/POOL")
@click.argument("replicas", type=int)
def scale(target: str, replicas: int) -> None:
    """Set the number of workers of a pool."""
    from penstock_operator.local.scale import scale as set_replicas
    from penstock_operator.local.store import Store

    with told():
        running_status()
        before = set_replicas(Store(home().objects), target, replicas)
    click.echo(f"{target} scaled from {before} to {replicas}")


@commands.command(short_help="Show why pools have their sizes.")
@click.argument("name", required=False)
@click.option("--namespace", "-n", help="In a cluster; the context's own without it.")
@click.option("--context", help="Of the kubeconfig; its current one without it.")
@click.option("--system-namespace", default="penstock-system", show_default=True,
              help="Where the cluster's operator runs.")  # fmt: skip
def explain(
    name: str | None, namespace: str | None, context: str | None, system_namespace: str
) -> None:
    """Show why the pools of the InferenceDeployment NAME have their sizes.

    It is one of the local runtime; or one of the cluster, where --namespace or --context is given
    or nothing runs locally.
    """
    from penstock_operator.local.explanation import explanation
    from penstock_operator.local.ownership import owner

    with told():
        if owner(home()) and not (namespace or context):
            click.echo(explanation(home(), running_status(), name), nl=False)
            return
        from penstock_operator.cluster import explanation as cluster

        place = cluster.Place(context, namespace, system_namespace)
        click.echo(cluster.explanation(place, name), nl=False)


@commands.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
def down(file: Path | None) -> None:
    """Drain everything, end it, and wait until it is gone.

    With FILE, only what it declares is taken away, and the rest goes on.
    """
    from penstock_operator.local.down import stop, take_away

    with told():
        if file is None:
            stop(home(), show=click.echo)
        else:
            take_away(home(), file, show=click.echo)


@commands.command()
@click.argument("file", type=click.Path(path_type=Path))
def validate(file: Path) -> None:
    """Check FILE as the API server would."""
    from penstock_operator.local.manifest import read_manifest

    with told():
        wishes = read_manifest(file)
        for deployment in wishes.deployments:
            click.echo(f"{file}: InferenceDeployment {deployment.metadata.name} is valid")
        for caller in wishes.tenants:
            click.echo(f"{file}: Tenant {caller.metadata.name} is valid")
        for other in wishes.others:
            click.echo(f"{file}: {other} is not Penstock's, and was not checked")


@commands.group()
def tenant() -> None:
    """Who may use the gateway."""


@tenant.command("new-key")
def new_key() -> None:
    """Print a new API key, once, and the hash by which a Tenant knows it."""
    import secrets

    from penstock_contract import api_keys

    key = api_keys.new_key(secrets.token_bytes(api_keys.RANDOM_BYTES))
    click.echo(f"key     {key}")
    click.echo(f"sha256  {api_keys.hash_of(key)}")
    click.echo("The key is for the caller, and stored nowhere; the Tenant gets the hash:", err=True)
    click.echo("  spec: {apiKeys: [{sha256: HASH}]}", err=True)


@commands.command(short_help="Replay requests through the autoscaler.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--trace", type=click.Path(path_type=Path), help="CSV; without it a synthetic one.")
@click.option("--scale", default=1.0, help="Factor on the trace's rate.")
@click.option(
    "--curve",
    default="0.015,1e-4,1e-4,1e-7,400000",
    show_default=True,
    help="Of one replica: seconds per step, prompt token, sequence, context token; KV tokens.",
)
@click.option("--cold-start", default="60s", show_default=True, help="Until a replica serves.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Draw it as a PNG.")
def simulate(
    file: Path, trace: Path | None, scale: float, curve: str, cold_start: str, picture: Path | None
) -> None:
    """Simulate what the autoscaler would do to the deployment in FILE under a trace."""
    from penstock_contract.api.base import seconds
    from penstock_operator.local.errors import UserError
    from penstock_operator.simulation.command import simulate as run

    with told():
        try:
            start = seconds(cold_start)
        except ValueError as error:
            raise UserError(f"--cold-start: {error}") from None
        click.echo(run(file, trace, scale, curve, start, picture))


@commands.command()
def version() -> None:
    """Print the version."""
    click.echo(f"penstock {version_of('penstock')}")


if __name__ == "__main__":
    main()
