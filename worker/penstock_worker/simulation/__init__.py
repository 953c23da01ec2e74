"""A worker that computes nothing: the real server, scheduler and block pool over synthetic steps.

For benchmarks of routers and autoscalers with hundreds of workers on one machine. Nothing that it
says is about quality, and nothing here loads torch.
"""
