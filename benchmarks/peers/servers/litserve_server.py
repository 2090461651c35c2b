"""LitServe: one row per request, rows of concurrent requests stacked into one model call."""

from typing import Any

import litserve
from classifier import Classifier, Row, setting


class IrisAPI(litserve.LitAPI):
    """Batches requests in the inference worker; the API server only moves JSON."""

    def setup(self, device: str) -> None:
        self._classifier = Classifier(setting("PEER_ARTIFACT"))

    def decode_request(self, request: dict[str, Any]) -> Row:
        return request["row"]

    def batch(self, inputs: list[Row]) -> list[Row]:
        return inputs

    def predict(self, x: list[Row] | Row) -> list[dict[str, Any]] | dict[str, Any]:
        if self.max_batch_size > 1:
            return self._classifier.classify(x)
        return self._classifier.classify([x])[0]

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


def main() -> None:
    api = IrisAPI(
        max_batch_size=int(setting("PEER_BATCH_SIZE")),
        batch_timeout=float(setting("PEER_BATCH_WAIT_MS")) / 1000,
    )
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    # fast_queue=True is lost on its way to this field in LitServe 0.2.19, hence the assignment.
    server.transport_config.transport_type = setting("PEER_TRANSPORT")
    server.run(
        host="127.0.0.1",
        port=int(setting("PEER_PORT")),
        num_api_servers=1,
        api_server_worker_type=setting("PEER_API_WORKER"),
        log_level="warning",
        access_log=False,
        generate_client_file=False,
        loop="uvloop",
        http="httptools",
    )


if __name__ == "__main__":
    main()
