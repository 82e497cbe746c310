"""The research agent in real sandboxes: two users at once, each from their own documents."""

from __future__ import annotations

from tests.evaluation.measure import put
from tests.nodes import Node


def test_two_users_research_at_once(node: Node) -> None:
    birds = {"alice": "heron", "bob": "magpie"}
    for user, bird in birds.items():
        put(node.services, user, "birds.md", f"# Birds\n\nThe {bird} sleeps in the tower of the church.")
    question = {"question": "Which bird sleeps in the tower?"}
    runs = {user: node.begin("research", question, user) for user in birds}
    for user, run in runs.items():
        ended = node.wait(run, timeout_s=30)
        assert ended.status == "completed", ended.error
        output = ended.output
        assert output is not None
        assert output["answer"].startswith(f"“The {birds[user]} sleeps in the tower of the church.” [1]")
        assert [cited["document"] for cited in output["citations"]] == ["birds.md"]
        said = " ".join(str(event["data"]) for event in node.log(run))
        assert "looking through 1 passages for" in said
        assert "the best of 1 passages is in birds.md > Birds" in said
        assert birds["bob" if user == "alice" else "alice"] not in said + str(output)


def test_a_question_that_is_too_short_names_its_field(node: Node) -> None:
    run = node.begin("research", {"question": "?"})
    ended = node.wait(run)
    assert ended.status == "failed"
    assert "question" in str(ended.error)
