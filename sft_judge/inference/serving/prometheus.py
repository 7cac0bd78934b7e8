"""The server's own figures for Prometheus; vLLM's stand beside them."""


class Metrics:
    """Requests by status and their time, battles, and what is waiting."""

    def __init__(self, queue):
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        made = {"registry": self.registry}
        self.requests = Counter("sft_judge_requests", "Requests by status.", ["status"], **made)
        self.battles = Counter("sft_judge_battles", "Battles judged.", **made)
        self.seconds = Histogram("sft_judge_request_seconds", "From the whole body to the answer.", **made)
        Gauge("sft_judge_queue", "Requests and battles in work.", **made).set_function(lambda: queue.taken)

    def text(self, *others) -> str:
        """These and other registries in Prometheus' text format."""
        from prometheus_client import generate_latest

        return "".join(generate_latest(registry).decode() for registry in (self.registry, *others))
