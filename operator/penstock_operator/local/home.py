"""The state folder of the local runtime: where everything that it remembers lies.

The files are the control plane: commands write desired state, the running loop picks it up, and
what it observed can be read back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock_operator.local.errors import UserError


@dataclass(frozen=True)
class Home:
    """Paths inside one state folder."""

    root: Path

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Home":
        """Return $PENSTOCK_HOME, else penstock's folder under the XDG state home."""
        if own := environment.get("PENSTOCK_HOME"):
            return cls(Path(own).absolute())
        state = environment.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        return cls(Path(state).absolute() / "penstock")

    @property
    def objects(self) -> Path:
        """Desired objects: `objects/<kind>/<name>.json`."""
        return self.root / "objects"

    @property
    def logs(self) -> Path:
        """What processes print: `logs/<process>.log`, and before that `logs/<process>.log.1`."""
        return self.root / "logs"

    @property
    def status(self) -> Path:
        """What the runtime observed."""
        return self.root / "status.json"

    @property
    def fleet(self) -> Path:
        """What the gateway reads."""
        return self.root / "fleet.json"

    @property
    def tenants(self) -> Path:
        """Who may use the gateway: Tenants as YAML."""
        return self.root / "tenants.yaml"

    @property
    def batches(self) -> Path:
        """Files and batches of the batch service; they outlive the runtime."""
        return self.root / "batches"

    @property
    def processes(self) -> Path:
        """Process ids with start times, to clean up after a runtime that was killed."""
        return self.root / "processes.json"

    @property
    def lock(self) -> Path:
        """Locked by the running runtime; holds its pid."""
        return self.root / "runtime.lock"

    @property
    def autoscaling(self) -> Path:
        """What the autoscaler has written down, by deployment."""
        return self.root / "autoscaling"

    def tier(self, deployment: str) -> Path:
        """Return the folder where a deployment's workers keep KV, if they are to."""
        return self.root / "kv" / deployment

    def explanation(self, deployment: str) -> Path:
        """Return the file that says why the pools of a deployment have their sizes."""
        return self.autoscaling / f"{deployment}.txt"

    def decisions(self, deployment: str) -> Path:
        """Return the log of decisions that changed a size, one JSON record per line."""
        return self.autoscaling / f"{deployment}.jsonl"

    @property
    def vllm_venv(self) -> Path | None:
        """The virtual environment with vLLM in it that the user has named, if any."""
        try:
            return Path(self._vllm_venv.read_text())
        except (FileNotFoundError, NotADirectoryError):  # made, or refused by name, later
            return None

    def use_vllm(self, venv: Path | None) -> None:
        """Remember a virtual environment with vLLM in it; None leaves what is known."""
        if venv is not None:
            self._vllm_venv.write_text(str(venv.absolute()))

    @property
    def _vllm_venv(self) -> Path:
        return self.root / "vllm-venv"

    def log(self, process: str) -> Path:
        """Return the log file of a process."""
        return self.logs / f"{process}.log"

    def make(self) -> None:
        """Create the folders, readable by their owner only.

        Raises:
            UserError: they cannot be made.
        """
        try:
            for folder in (self.root, self.objects, self.logs):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot keep state in {self.root}: {error.strerror}; set PENSTOCK_HOME to a "
                "folder that can be written"
            ) from None
