# Two stages from one base: the second has no compiler cache, no pip cache and no sources, only the
# environment that the first one made. Nothing is fetched that requirements.lock does not pin by hash.
FROM python:3.11.14-slim-bookworm AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN ["python", "-m", "venv", "/opt/switchboard"]
COPY requirements.lock ./
# The lock whole and alone (why: Makefile).
RUN ["/opt/switchboard/bin/pip", "install", "--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", "requirements.lock"]
COPY pyproject.toml README.md ./
COPY config/ config/
COPY router/ router/
COPY consumers/ consumers/
# setuptools is in the lock, so the project is built without fetching anything unpinned.
RUN ["/opt/switchboard/bin/pip", "install", "--no-deps", "--no-build-isolation", "."]
RUN ["/opt/switchboard/bin/pip", "check"]


FROM python:3.11.14-slim-bookworm

RUN ["useradd", "--uid", "10001", "--user-group", "--no-create-home", "--home-dir", "/data", "--shell", "/usr/sbin/nologin", "switchboard"]
# Journal, route table copy, SQLite and secret key: the only place that is written to.
RUN ["install", "--directory", "--owner", "10001", "--group", "10001", "--mode", "0700", "/data"]
COPY --from=build /opt/switchboard /opt/switchboard

ENV PATH=/opt/switchboard/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SWITCHBOARD_DATA_DIR=/data \
    SWITCHBOARD_HTTP__HOST=0.0.0.0 \
    SWITCHBOARD_HTTP__PORT=8080

USER 10001:10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8080
# First requests in flight end, then handlers, the relay and the journal: give it 45 s.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8080, timeout=3); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["switchboard"]
CMD ["up"]
