"""Sets of values that between them render every line of the chart."""

from helm import Object

EVERYTHING: Object = {
    "image": {"registry": "registry.example/x", "tag": "1.2.3", "pullSecrets": [{"name": "pull"}]},
    "operator": {
        "replicas": 2,
        "extraArgs": ["--resync=60s"],
        "extraEnv": [{"name": "A", "value": "b"}],
        "podLabels": {"team": "ml"},
        "podAnnotations": {"example.com/note": "x"},
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "infra", "operator": "Exists", "effect": "NoSchedule"}],
    },
    "gateway": {
        "image": "registry.example/gateway@sha256:" + "0" * 64,
        "debugHeaders": True,
        "tenants": {"namespace": "callers", "secrets": True, "required": True},
        "service": {"type": "LoadBalancer", "annotations": {"example.com/internal": "true"}},
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "hosts": ["llm.example.com", "*.llm.example.com"],
            "tlsSecret": "llm-tls",
            "annotations": {"nginx.ingress.kubernetes.io/proxy-read-timeout": "3600"},
        },
        "httpRoute": {
            "enabled": True,
            "parentRefs": [{"name": "public", "namespace": "gateways"}],
            "hostnames": ["llm.example.com"],
        },
        "autoscaling": {"enabled": True},
        "disruptionBudget": {"maxUnavailable": "25%"},
        "priorityClassName": "high",
        "extraVolumes": [{"name": "ca", "configMap": {"name": "company-ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ssl/company", "readOnly": True}],
        "affinity": {
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [
                    {"topologyKey": "kubernetes.io/hostname", "labelSelector": {}}
                ]
            }
        },
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}
        ],
    },
    "batches": {
        "enabled": True,
        "tokenSecret": "batch-token",
        "storage": {"size": "50Gi", "className": "fast"},
    },
    "endpointPicker": {
        "enabled": True,
        "pools": [
            {"namespace": "team-a", "deployment": "qwen"},
            {"namespace": "team-b", "deployment": "llama"},
        ],
        "gateways": [{"namespaceSelector": {"matchLabels": {"a": "b"}}}],
        "endpoints": 2,
        "failureMode": "FailOpen",
        "tls": {"secretName": "picker-tls"},
    },
    "worker": {"tokenSecret": "worker-token"},
    "networkPolicy": {
        "denyNamespace": True,
        "clients": [{"namespaceSelector": {"matchLabels": {"penstock.dev/client": "true"}}}],
        "monitoringNamespaces": ["monitoring"],
    },
    "metrics": {
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True},
    },
}

CASES: dict[str, Object] = {
    "defaults": {},
    "everything": EVERYTHING,
    "two namespaces": {"watchNamespaces": ["team-a", "team-b"], "crds": {"install": False}},
    "no policies": {"networkPolicy": {"enabled": False}, "crds": {"keep": False}},
}
