# One image for api, worker, flower and migrate; docker-compose.yml says which is which.
FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /opt/lanewise
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY api api
COPY lanewise lanewise
COPY shared shared
COPY worker worker
RUN /opt/lanewise/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt ".[data,research,llm,mcp,flower]"

FROM python:3.12-slim
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /srv/lanewise lanewise \
    && install --directory --owner lanewise --group lanewise /srv/lanewise
COPY --from=build /opt/lanewise /opt/lanewise
# Agents of your own: mount or copy their packages here and name them in LANEWISE_AGENTS.
ENV PATH="/opt/lanewise/bin:$PATH" PYTHONPATH=/srv/lanewise PYTHONUNBUFFERED=1
WORKDIR /srv/lanewise
USER lanewise
EXPOSE 8000
CMD ["gunicorn", "-c", "python:api.gunicorn_conf", "--bind", "0.0.0.0:8000", "api.wsgi:app"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
