"""Runs by several workers: blocks of images in files, workers anywhere that do them, and who starts these.

block_listing → block_folder → block_worker
names           files          engine + rows

shared_engine puts them together. Its workers are started by Ray on many machines in ray_engine, by what ray_cluster
knows of Ray, and in process_engine as processes of this machine.
"""
