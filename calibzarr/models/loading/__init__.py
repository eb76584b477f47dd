"""How DiffusionKit's pipelines come by their weights."""
