"""Started as ``python -IS supervise.py JOBDIR PREPAID_MS RESERVE_MS READY_FD``.

Nothing but this line-up of paths is compiled at each start; all else comes from byte code.
"""

import os
import sys

sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))

if __name__ == "__main__":
    from robocompute_node.executor.supervisor import main

    main(sys.argv[1:])
