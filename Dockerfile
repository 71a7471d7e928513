# The service of docs/serve.md:
#   docker build -t bioscan-clip .
#   docker run --rm -p 127.0.0.1:8000:8000 -v $PWD/outputs/demo:/demo:ro bioscan-clip /demo/library --model /demo/train
FROM python:3.12-slim
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir --requirement requirements.txt
COPY pyproject.toml README.md ./
COPY hydra_plugins hydra_plugins
COPY projects projects
RUN pip install --no-cache-dir --no-deps --editable . && useradd --create-home service
USER service
ENV HF_HUB_OFFLINE=1
EXPOSE 8000
# Within a container, everyone who can reach it is who the port is published to.
ENTRYPOINT ["bioscan-clip", "serve", "--host", "0.0.0.0"]
