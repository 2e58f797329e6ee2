"""What an account is like: whether syncs will work, and how its Peaka answers what Peaka's contract leaves open.

``python -m dagster_peaka doctor`` asks with the client's own calls and changes nothing, unless ``--sync`` is given. The
modules, from the ground up:

- ``readings``: a reading as data, and what is known of each: the document's, the observed, what it means
- ``shapes``: what the raw JSON of answers tells; pure
- ``asking``: one call within the doctor's time, with its raw answer; whom readings are told
- ``connection``: key, zone, address, proxy, certificates, project, the first readings, which decide on the others
- ``account``: listings, histories, schedules, tables
- ``trial``: the one sync of ``--sync``
- ``report``, ``drawing``: two views of the readings, JSON without names and a table
- ``command``: options, what is printed where, the exit code
"""
