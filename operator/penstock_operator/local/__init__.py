"""The local runtime: the planned pods of an InferenceDeployment as processes on 127.0.0.1."""
