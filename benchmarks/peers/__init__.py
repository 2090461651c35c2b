"""Other model servers, each at the best settings that were found for it."""
