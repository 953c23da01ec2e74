"""Penstock's choice of workers behind somebody else's gateway: an endpoint picker.

It speaks the Endpoint Picker Protocol of the Gateway API Inference Extension, over Envoy's external
processing. What it decides, the gateway's own code decides (`routing`, `relay.gate`); what is here
carries questions to it, and back what answers teach.
"""
