"""Health checks of backends, thousands in one asyncio loop (docs/design/probes.md)."""
