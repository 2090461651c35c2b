"""Other model servers, each at the best settings found for it."""
