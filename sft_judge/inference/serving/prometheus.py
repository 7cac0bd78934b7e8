"""Prometheus metrics of the server, shown together with vLLM's."""


class Metrics:
    """
    Count requests by status, their time, judged battles, and the queue.

    Args:
        queue: the server's queue.
    """

    def __init__(self, queue):
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        made = {"registry": self.registry}
        self.requests = Counter("sft_judge_requests", "Requests by status.", ["status"], **made)
        self.battles = Counter("sft_judge_battles", "Battles judged.", **made)
        self.seconds = Histogram("sft_judge_request_seconds", "Seconds from the complete body to the answer.", **made)
        Gauge("sft_judge_queue", "Requests and battles in progress.", **made).set_function(lambda: queue.taken)

    def text(self, *others) -> str:
        """Return our metrics and those of other registries in Prometheus' text format."""
        from prometheus_client import generate_latest

        return "".join(generate_latest(registry).decode() for registry in (self.registry, *others))
