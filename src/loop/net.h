/* net.h: the hooks by which asyncio's create_connection, create_server and their kin
 * reach our transports. */
#ifndef AL_LOOP_NET_H
#define AL_LOOP_NET_H

#include "base/py.h"

extern PyMethodDef al_net_methods[];

#endif
