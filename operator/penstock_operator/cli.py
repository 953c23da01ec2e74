"""The `penstock` command. Every command imports what it needs itself, so that help is instant."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

import click

from penstock_operator.local import cli as local
from penstock_operator.local.cli import home, mistakes_reported, running_status, seconds_of


def main() -> None:
    """Run the command line; mistakes of the user end with code 2 and never with a traceback."""
    commands(prog_name="penstock")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Serve large language models: the plan of the operator, run on this machine."""


for _command in local.COMMANDS:
    commands.add_command(_command)


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

    with mistakes_reported():
        if owner(home()) and not (namespace or context):
            click.echo(explanation(home(), running_status(), name), nl=False)
            return
        from penstock_operator.cluster import explanation as cluster

        place = cluster.Place(context, namespace, system_namespace)
        click.echo(cluster.explanation(place, name), nl=False)


@commands.command()
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
def validate(files: tuple[Path, ...]) -> None:
    """Check each FILE as the API server and the operator would."""
    from penstock_operator.local.errors import UserError
    from penstock_operator.local.manifest import NothingOfOurs

    wrong = False
    for file in files:  # all of them: whoever checks a folder wants to know every mistake
        try:
            _validate(file)
        except UserError as error:
            if isinstance(error, NothingOfOurs) and len(files) > 1:
                _not_ours(file, error.others)
            else:
                click.echo(f"error: {error}", err=True)
                wrong = True
    if wrong:
        raise SystemExit(2)


def _validate(file: Path) -> None:
    """Say what a file holds; UserError when something in it is wrong."""
    from penstock_operator.local.errors import UserError
    from penstock_operator.local.manifest import check_supported, read_manifest

    declared = read_manifest(file)
    try:
        supported = check_supported(declared.deployments)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    for deployment in supported:
        click.echo(f"{file}: InferenceDeployment {deployment.metadata.name} is valid")
    for caller in declared.tenants:
        click.echo(f"{file}: Tenant {caller.metadata.name} is valid")
    _not_ours(file, declared.others)


def _not_ours(file: Path, others: list[str]) -> None:
    for other in others:
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
@click.option("--begin", help="Time at which the trace begins, for schedules: 2026-03-02T07:30Z.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Draw it as a PNG.")
def simulate(
    file: Path,
    trace: Path | None,
    scale: float,
    curve: str,
    cold_start: str,
    begin: str | None,
    picture: Path | None,
) -> None:
    """Simulate what the autoscaler would do to the deployment in FILE under a trace."""
    from penstock_operator.simulation.command import simulate as run

    start = seconds_of(cold_start, "--cold-start")
    with mistakes_reported():
        try:
            found = run(file, trace, scale, curve, start, begin, picture, _tell_runs)
        finally:
            _show("")
        click.echo(found)


def _tell_runs(done: int, total: int) -> None:
    _show(f"run {done} of {total}")


def _show(words: str) -> None:
    """Show people how far a command is, in the place of what was shown before."""
    if sys.stderr.isatty():
        click.echo(f"\r{words}\x1b[K", nl=False, err=True)


@commands.command()
def version() -> None:
    """Print the version."""
    click.echo(f"penstock {version_of('penstock')}")


if __name__ == "__main__":
    main()
