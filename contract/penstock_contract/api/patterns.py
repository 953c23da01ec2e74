"""What strings of the API look like: as patterns for machines, and in words for people."""

from collections.abc import Mapping
from typing import Final

from penstock_contract.api_keys import HASH_PATTERN

DURATION: Final = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
DECIMAL: Final = r"^[0-9]+(\.[0-9]+)?$"
QUANTILE: Final = r"^0(\.[0-9]+)?$"
QUANTITY: Final = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
DNS_LABEL: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_NAME: Final = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"
MODEL_URI: Final = r"^(hf|pvc|s3|gs|oci|file)://.+$"
SERVED_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$"
MOUNT_PATH: Final = r"^/[^:]*$"
CRON: Final = r"^\S+(\s+\S+){4}$"

_ENDS: Final = "that begins and ends with a letter or digit"
IN_WORDS: Final[Mapping[str, str]] = {
    DURATION: "a duration like 30s, 1m30s or 250ms",
    DECIMAL: 'a decimal number in quotes, like "0.9"',
    QUANTILE: 'a decimal number from 0 up to, but not including, 1, in quotes, like "0.9"',
    DNS_LABEL: f"a name of lower-case letters, digits and -, {_ENDS}",
    DNS_NAME: f"a name of lower-case letters, digits, - and ., {_ENDS}",
    MODEL_URI: "hf://, pvc://, s3://, gs://, oci:// or file://, and what lies there",
    SERVED_NAME: "a name of letters, digits and . _ : / -, that begins with a letter or digit",
    HASH_PATTERN: "64 hexadecimal digits in lower case; penstock tenant new-key prints them",
    CRON: "five fields: minute, hour, day of month, month, day of week",
    MOUNT_PATH: "an absolute path without a colon",
}
"""What a text must be, by its pattern."""
