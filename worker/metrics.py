"""What a worker counts, for Prometheus. Labels are queues and outcomes; never users."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

CLAIMED = Counter("lanewise_runs_claimed", "Attempts that this worker claimed", ["queue"])
ENDED = Counter("lanewise_attempts_ended", "Attempts that ended here, by outcome", ["queue", "outcome"])
DISPATCH_SECONDS = Histogram("lanewise_dispatch_seconds", "From the grant of a slot to the claim", ["queue"])
REFUSED_MESSAGES = Counter("lanewise_messages_refused", "Messages and orders that are not ours")
STALE_MESSAGES = Counter("lanewise_messages_stale", "Messages for runs that were somebody else's or over")
SANDBOX_CPU_SECONDS = Counter("lanewise_sandbox_cpu_seconds", "Processor time of ended sandboxes")
ZYGOTE_RESTARTS = Gauge("lanewise_zygote_restarts", "How often the zygote was started again")
RUNNING = Gauge("lanewise_runs_running", "Runs under way in this worker")
REPAIRED = Counter("lanewise_repaired", "What was found wrong and put right, by reason", ["reason"])
LANES = Gauge("lanewise_runs", "Runs of all users by where they are; told by the leader", ["where"])
SLOTS_HELD = Gauge("lanewise_slots_held", "Slots held in Redis by users with live runs; told by the leader")
OLDEST_GRANTED = Gauge(
    "lanewise_oldest_granted_seconds",
    "How long the oldest granted run waits for a worker; told by the leader",
    ["queue"],
)
EVENTS_WRITTEN = Counter("lanewise_events_written", "Events committed to the log")
EVENT_BATCHES = Counter("lanewise_event_batches", "Transactions that the events took")
AUDIT_SEAL = Gauge("lanewise_audit_seal", "Number of the audit trail's last seal")
