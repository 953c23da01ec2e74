"""What the installation decides, not the user of an InferenceDeployment."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Images and places; the chart sets them through the operator's flags."""

    system_namespace: str = "penstock-system"
    """Where gateway and operator run; nobody else reaches the workers."""
    metrics_namespaces: tuple[str, ...] = ()
    """Namespaces of Prometheus, which may reach the workers too."""
    gateway_service: str = "penstock-gateway"
    cluster_domain: str = "cluster.local"
    worker_image: str = "ghcr.io/penstock-dev/penstock-worker:0.1.0"
    worker_gpu_image: str = "ghcr.io/penstock-dev/penstock-worker-gpu:0.1.0"
    vllm_image: str = "docker.io/vllm/vllm-openai:v0.32.0"
    """The default images serve new revisions only: a running one keeps what it was made with."""
    image_pull_secrets: tuple[str, ...] = ()
    """Secrets, in the namespace of each pool, for a private registry."""
    worker_token_secret: str = ""
    """Secret, in the namespace of each pool, with the token that workers ask for; empty: none."""
