from __future__ import annotations

from pathlib import Path

import psycopg2
import pytest

from lanewise.embedded import EmbeddedPostgres, EmbeddedRedis
from lanewise.secrets import ensure_secrets
from lanewise.stores import Stores
from lanewise.supervisor import Supervisor


def user_of(url: str) -> str:
    connection = psycopg2.connect(url, connect_timeout=5)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_user, count(*) FROM agents")
            row = cursor.fetchone()
            return str(row and row[0])
    finally:
        connection.close()


def test_embedded_stores_come_up_migrated_again_and_again(tmp_path: Path) -> None:
    for _ in range(2):
        stores = Stores(tmp_path, ensure_secrets(tmp_path), None, None)
        with Supervisor(print) as supervisor:
            stores.start(supervisor, stage=0)
            assert user_of(stores.values["database_url"]) == "lanewise_service"
        stores.close()


def test_given_stores_are_migrated_and_nothing_is_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir = tmp_path / "data"
    # Servers of its own: this makes roles, which all databases of a server share.
    with EmbeddedPostgres(tmp_path) as postgres, EmbeddedRedis(tmp_path) as redis, Supervisor(print) as supervisor:
        urls = []
        for key in ("k" * 32, "l" * 32):  # a second fleet on the server must not lock the first one out
            monkeypatch.setenv("LANEWISE_SECRET_KEY", key)
            stores = Stores(data_dir, ensure_secrets(data_dir), postgres.admin_url, redis.admin_url)
            stores.start(supervisor, stage=0)
            assert not supervisor._children
            urls.append(stores.values["database_url"])
        users = [user_of(url) for url in urls]
    assert len(set(users)) == 2
    assert all(user.startswith("lanewise_service_") for user in users)
    assert {path.name for path in data_dir.iterdir()} == {"secrets.json", ".gitignore"}
