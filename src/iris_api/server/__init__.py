"""The process that serves: uvicorn, its workers, its socket, and its limits on connections."""
