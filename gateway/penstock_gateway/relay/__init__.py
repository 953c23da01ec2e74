"""Carries requests to workers and their answers back."""
