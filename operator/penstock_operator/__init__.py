"""The operator: plans what an InferenceDeployment needs and keeps it running."""
