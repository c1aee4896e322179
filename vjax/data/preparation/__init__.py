"""Video files -> a prepared split: what is to be made, shard by shard, by whatever workers there are.

Used by `vjax.prepare`. A split is planned whole (`plan`); its shards are then written one by one
(`shards`), each of them alone and the same whoever writes it: processes of this machine (`processes`), the
tasks of a job array, or Apache Beam. When all are there the split is finished (`plan.finish`).
"""
