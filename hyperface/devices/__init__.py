"""Devices, meshes and processes; nothing else in the project names them."""
