"""The process that runs the loop: `python -m penstock_operator.local.daemon HOME PORT LOCK_FD`.

It is started by `penstock up`, which hands it the locked state folder.
"""

import asyncio
import sys
from pathlib import Path

from penstock_operator.local.home import Home
from penstock_operator.local.ownership import RuntimeLock
from penstock_operator.local.runtime import run


def main() -> None:
    """Run until told to stop."""
    folder, port, file = sys.argv[1:]
    lock = RuntimeLock(int(file))
    asyncio.run(run(Home(Path(folder)), int(port)))
    lock.close()


if __name__ == "__main__":
    main()
