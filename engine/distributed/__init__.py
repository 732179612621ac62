"""Runs on more than one machine: blocks of images in files, workers anywhere that do them, and Ray to start these.

block_listing → block_folder → block_worker          ray_engine puts them together, by what ray_cluster knows of Ray
names           files          engine + rows
"""
