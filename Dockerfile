# One stage builds, another runs: the image has no compilers, no pip cache and no sources.
FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/iris
ENV PATH=/opt/iris/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Dependencies first, so that Docker rebuilds their layer only if one of them changes.
COPY deploy/requirements.txt ./deploy/
RUN pip install --require-hashes --requirement deploy/requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY migrations migrations
COPY src src
RUN pip install --no-deps .
# The ML model is part of the image, so that all containers of a release predict the same.
RUN IRIS_DATA_DIR=/var/lib/iris iris-api train

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent iris
COPY --from=build /opt/iris /opt/iris
COPY --from=build /var/lib/iris /var/lib/iris
COPY deploy/entrypoint.sh /usr/local/bin/iris-entrypoint
COPY deploy/healthcheck.py /usr/local/bin/iris-healthcheck
ENV PATH=/opt/iris/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    IRIS_DATA_DIR=/var/lib/iris \
    IRIS_HOST=0.0.0.0 \
    IRIS_LOG_FORMAT=json
USER iris
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 \
    CMD ["iris-healthcheck"]
ENTRYPOINT ["iris-entrypoint"]
CMD ["serve"]
