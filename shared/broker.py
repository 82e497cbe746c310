"""Celery's settings, the same for who sends and who works. The broker carries hints: see `shared.messages`."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from shared.breaker import Breaker
from shared.messages import TASK_NAME, RunMessage
from shared.settings import Settings
from shared.signing import Signer


class Application(Celery):
    """Fails at once for a while after the broker hung, so that it is waited for once."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._breaker = Breaker(lambda: OperationalError("the broker hangs: it is asked again in a moment"))

    def send_task(self, *args: Any, **options: Any) -> Any:
        """Sends as Celery does, unless the broker has just hung: then it raises what Celery would."""
        with self._breaker.guard():
            return super().send_task(*args, **options)

    def queue_length(self, queue: str) -> int:
        """Returns how many messages wait in a queue.

        Raises:
            kombu.exceptions.OperationalError, redis.RedisError, OSError: the broker is away.
        """
        with self._breaker.guard(), self.connection_or_acquire() as connection:
            channel: Any = connection.default_channel
            # Not `passive`: with our key prefix kombu looks for the queue under a wrong name and never finds it.
            return int(channel.queue_declare(queue).message_count)


def make_celery(settings: Settings) -> Application:
    """Returns the Celery application of a process."""
    app = Application("lanewise", broker=settings.effective_broker_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_default_queue="default",
        task_create_missing_queues=True,
        # What is not running stays in the broker: nothing is reserved, so nothing can be delivered a second time.
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_proc_alive_timeout=30,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=4,
        broker_transport_options={
            "global_keyprefix": f"lw:{settings.deployment}:broker:",
            "visibility_timeout": 8 * 86_400,
            "socket_timeout": 5,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
        # A publish tries once more and then fails: the leader sends what was not sent.
        task_publish_retry=True,
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1},
    )
    return app


def send(app: Celery, message: RunMessage, queue: str, signer: Signer) -> None:
    """Puts "this run is ready" on its queue.

    Raises:
        kombu.exceptions.OperationalError: the broker did not take it within a few seconds.
    """
    app.send_task(
        TASK_NAME,
        args=[message.encode(signer)],
        task_id=message.task_id,
        queue=queue,
        argsrepr="(signed)",  # what Flower shows
        ignore_result=True,
    )
