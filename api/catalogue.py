"""The agents that running workers have, remembered for a second, with their compiled input schemas."""

from __future__ import annotations

import ast
import json
import threading
import time
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry

from shared.catalogue import running_agents
from shared.database import Database
from shared.errors import InvalidError, UnavailableError, UnknownAgentError
from shared.jsonvalue import clean_json
from shared.models import Agent
from shared.nearest import did_you_mean

LATELY_LEASES = 4  # a worker that was silent for so long is not coming back
FRESH_S = 1.0
RECHECK_S = 0.05  # a name that is not there is looked up again, but a flood of such names is not
MAX_ERRORS = 20
MAX_MESSAGE = 200


class AgentCatalogue:
    """Reads the catalogue at most once a second, and again before it says that there is no such agent.

    Args:
        database: where workers announce themselves.
        lease_s: seconds of silence after which a worker is not counted.
    """

    def __init__(self, database: Database, lease_s: float) -> None:
        self._database = database
        self._lease_s = lease_s
        self._lock = threading.Lock()
        self._agents: Mapping[str, Agent] = {}
        self._validators: dict[str, Draft202012Validator] = {}
        self._read_at = -FRESH_S

    def all(self) -> Mapping[str, Agent]:
        """Returns the agents by name.

        Raises:
            UnavailableError: Postgres is away.
        """
        self._refresh(FRESH_S)
        return self._agents

    def get(self, name: str) -> Agent:
        """Returns an agent.

        Raises:
            UnknownAgentError: no running worker has it.
            UnavailableError: Postgres is away, or was a moment ago, so that workers could not say that they live.
        """
        found = self.all().get(name)
        if found is None:
            self._refresh(RECHECK_S)
            found = self._agents.get(name)
        if found is None and self._was_here(name):
            self._refresh(0)  # it may have come since the last look
            found = self._agents.get(name)
            if found is None:
                message = "the workers that have this agent give no sign of life; try again shortly"
                raise UnavailableError(message, retry_after_s=2)
        if found is None:
            shown = str(clean_json(name))[:MAX_MESSAGE]
            message = f"no running worker has an agent {shown!r}{did_you_mean(shown, self._agents)}"
            raise UnknownAgentError(message, errors=[{"field": "agent", "message": message}])
        return found

    def _was_here(self, name: str) -> bool:
        with self._database.system_session() as session:
            return any(agent.name == name for agent in running_agents(session, LATELY_LEASES * self._lease_s))

    def check_input(self, agent: Agent, value: Any) -> None:
        """Holds an input against the agent's schema (JSON Schema, draft 2020-12).

        Raises:
            InvalidError: naming each field.
        """
        errors = []
        for error in self._validator(agent.input_schema).iter_errors(value):
            errors.append({"field": _field(error), "message": clean_json(error.message)[:MAX_MESSAGE]})
            if len(errors) == MAX_ERRORS:
                break
        if errors:
            raise InvalidError(f"{errors[0]['field']}: {errors[0]['message']}", errors=errors)

    def _refresh(self, max_age_s: float) -> None:
        with self._lock:
            if time.monotonic() - self._read_at < max_age_s:
                return
            with self._database.system_session() as session:
                agents = running_agents(session, self._lease_s)
                session.expunge_all()
            self._agents = {agent.name: agent for agent in agents}
            self._validators = {key: self._validators[key] for key in map(_key, agents) if key in self._validators}
            self._read_at = time.monotonic()

    def _validator(self, schema: dict[str, Any]) -> Draft202012Validator:
        key = json.dumps(schema, sort_keys=True)
        if key not in self._validators:
            # An empty registry: a reference out of the schema is an error instead of a request to somewhere.
            self._validators[key] = Draft202012Validator(schema, registry=Registry())
        return self._validators[key]


def _key(agent: Agent) -> str:
    return json.dumps(agent.input_schema, sort_keys=True)


def _field(error: ValidationError) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    missing = f".{_missing(error)}" if error.validator == "required" else ""
    return str(clean_json(f"input{path}{missing}"))


def _missing(error: ValidationError) -> str:
    """Returns the name of the missing property, which jsonschema tells in the message only."""
    return str(ast.literal_eval(error.message.removesuffix(" is a required property")))
