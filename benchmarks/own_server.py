"""``python -m benchmarks.own_server``: the empty endpoint on the service's own server."""

import uvicorn

from iris_api.server.listener import bind, listen
from iris_api.server.run import configure
from iris_api.settings import load_settings

if __name__ == "__main__":
    settings = load_settings()
    with bind(settings) as listener:
        listen(listener, settings)
        config = configure(settings, "benchmarks.apps:empty_on_own_server")
        uvicorn.Server(config).run(sockets=[listener])
