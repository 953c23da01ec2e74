"""`penstock-worker fetch URI --into FOLDER`: credentials come from the environment alone."""

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from penstock_worker.fetch.bucket import Bucket
from penstock_worker.fetch.cloud_storage import CloudStorage
from penstock_worker.fetch.folder import fetch
from penstock_worker.fetch.hub import ENDPOINT, Hub
from penstock_worker.fetch.remote import FetchError, Origin
from penstock_worker.fetch.s3 import S3
from penstock_worker.fetch.selection import Select, selected, selected_of_adapter


def main(arguments: Sequence[str]) -> int:
    """Fetch a model; return the exit status. The last line on standard error says why it failed."""
    options = _parser().parse_args(arguments)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        select = selected_of_adapter if options.adapter else selected
        found = origin(options.uri, options.revision, os.environ, select)
        with found.client:
            fetch(found, options.into, _say)
    except (FetchError, httpx.HTTPError, httpx.InvalidURL) as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("interrupted; what is there is kept, and the next fetch goes on from it")
        return 130
    return 0


def origin(
    uri: str, revision: str, environment: Mapping[str, str], select: Select = selected
) -> Origin:
    """Return where a model comes from, or whatever else `select` finds there.

    Raises:
        FetchError: nothing is fetched from there.
    """
    scheme, _, rest = uri.partition("://")
    if scheme == "hf" and rest:
        return Hub(
            rest.strip("/"),
            revision,
            token=environment.get("HF_TOKEN", ""),
            endpoint=environment.get("HF_ENDPOINT") or ENDPOINT,
            select=select,
        )
    bucket, _, prefix = rest.partition("/")
    if scheme == "s3" and bucket:
        return Bucket(S3(bucket, environment), prefix, select)
    if scheme == "gs" and bucket:
        return Bucket(CloudStorage(bucket, environment), prefix, select)
    raise FetchError(
        f"{uri}: only hf://ORG/NAME, s3://BUCKET/PREFIX and gs://BUCKET/PREFIX are fetched"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="penstock-worker fetch",
        description="Fetch a model into a folder, whole or not at all.",
        epilog="environment: HF_TOKEN, HF_ENDPOINT; AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
        "AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL, and what IRSA, EKS Pod Identity and ECS "
        "set; GCE_METADATA_HOST; HTTPS_PROXY, SSL_CERT_FILE",
    )
    parser.add_argument("uri", help="hf://ORG/NAME, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
    parser.add_argument("--revision", default="main", help="branch, tag or commit (hf:// only)")
    parser.add_argument("--adapter", action="store_true", help="it is a LoRA adapter, no model")
    parser.add_argument("--into", type=Path, required=True, help="folder; its parents are made")
    return parser


def _say(line: str) -> None:
    sys.stderr.write(f"penstock-worker fetch: {line}\n")
    sys.stderr.flush()
