"""The Kubernetes API `penstock.dev/v1alpha1`: InferenceDeployment, EnginePool, Tenant.

The pydantic models are the declaration; `crds/*.yaml` and the reference pages are generated from
them (`make generate`). Inside v1alpha1 no field is renamed or re-typed; fields are added, and one
that never had an effect may go.
"""

from penstock_contract.api.autoscaling import Autoscaling, Scaling, ScalingPolicy, Schedule
from penstock_contract.api.base import ApiModel, Condition, ConditionStatus, ObjectMeta
from penstock_contract.api.engine import Engine, EngineType
from penstock_contract.api.inference import (
    Disaggregation,
    Drain,
    InferenceDeployment,
    InferenceDeploymentSpec,
    Queue,
    RequestClass,
    Rollout,
    Routing,
)
from penstock_contract.api.model import Model
from penstock_contract.api.pool import (
    EnginePool,
    EnginePoolSpec,
    EnginePoolStatus,
    Parallelism,
    Pool,
    Resources,
    Role,
)
from penstock_contract.api.slo import Slo
from penstock_contract.api.status import InferenceDeploymentStatus, PoolStatus
from penstock_contract.api.tenant import Tenant, TenantSpec, TenantStatus

__all__ = [
    "ApiModel",
    "Autoscaling",
    "Condition",
    "ConditionStatus",
    "Disaggregation",
    "Drain",
    "Engine",
    "EnginePool",
    "EnginePoolSpec",
    "EnginePoolStatus",
    "EngineType",
    "InferenceDeployment",
    "InferenceDeploymentSpec",
    "InferenceDeploymentStatus",
    "Model",
    "ObjectMeta",
    "Parallelism",
    "Pool",
    "PoolStatus",
    "Queue",
    "RequestClass",
    "Resources",
    "Role",
    "Rollout",
    "Routing",
    "Scaling",
    "ScalingPolicy",
    "Schedule",
    "Slo",
    "Tenant",
    "TenantSpec",
    "TenantStatus",
]
